# `make setup` includes this file through CMAKE_PROJECT_fcclip_ros_INCLUDE; a full ROS 2 install does not need it.
#
# The targets that the message wheels export name the Python headers of the machine that built the wheels. CMake
# refuses to generate with an imported target whose include directory does not exist, although nothing here is compiled
# against these targets' headers. Such directories are therefore taken off, once every package has been found.
function(drop_missing_include_directories)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  list(FILTER targets INCLUDE REGEX "__rosidl_generator_py$")
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set(existing "")
    foreach(directory IN LISTS directories)
      if(EXISTS ${directory})
        list(APPEND existing ${directory})
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_missing_include_directories)
